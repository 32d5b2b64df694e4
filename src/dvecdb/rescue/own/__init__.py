"""Our own directories, damaged in any way: their newest provable state. Reads only.

A row keeps its number for ever, and so does a commit. Whatever file still holds a row, its end or
a commit therefore adds to the same picture, and manifests only say what is the best to look at.

    places     what is at a path, and which parts of a collection are there
    segments   what each segment says of itself
    logs       what each log holds, and what of it counts
    holders    rows as they lie in a segment or a log
    evidence   which segments and commits are proven, and which are missing
    rows       which rows are live, and where each of them can be read
    reading    all of it together: a `Salvage`
"""
