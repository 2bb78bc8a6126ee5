"""`tallystick bench`: measurements that a person runs on their own machine.

robustness  accuracy under every attack with every rule
report      its table and JSON; picture its heat map
command     the commands
"""
