"""Data sets in BDD100K's layout -> memory-mapped arrays that the stages read.

    bdd100k.py   where files lie; the directory is the split
    ego.py       info JSON -> speed and yaw rate at frame times
    manifest.py  `data scan`: every file decoded once; what it holds or why it is rejected
    plan.py      which frames of which drives, and at which rows of the arrays they stand
    sample.py    `data sample`: pixels and actions of the planned frames
    ids.py       the file format of ids, bound to the tokenizer that made them
    tokenize.py  `data tokenize`: ids of a sampled folder, or of videos directly
    split.py     what the stages read: one split's arrays
    work.py      many files over several processes, resumable
"""
