"""What the processes of a run share: folder, snapshots, tracker, metrics, logs and signals.

It may import `experience` and `config`.
"""
