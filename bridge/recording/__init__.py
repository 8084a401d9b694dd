"""Recording drives of any World into BDD100K's folder layout.

bdd100k.py  one drive's video and info file, written whole or not at all
drives.py   one drive: world and driver, from reset to its last frame
run.py      many drives over several workers, resumable
"""
