"""Pawl and other backup programs on the same data, through the same sshd: see `benches/run.py --help`.

datasets   what is backed up, made once and kept
machine    our own sshd, and one command measured
compare    a restore next to its source
programs   how each program is set up and driven
cases      what each program does in turn, and the machine's limits
goals      what Pawl is held to
report     tables of what was measured
"""
