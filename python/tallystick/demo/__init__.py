"""`tallystick demo`: a federation of hospitals on real data, some of them hostile, with everything on the
record.

data        real records, split over hospitals
training    a small model in NumPy, trained locally
attacks     what hostile hospitals send: tallystick.attacks by name, and wrong labels
clients     who trains, who attacks, what all send in a round
config      what is asked for, and what is allowed
federation  the rounds, three federations side by side
folder      the output folder, and what is never touched in it
audit       verification, and the tamper check
report      terminal and JSON; labels and picture beside it
command     the command itself
"""
