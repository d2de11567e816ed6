"""What the store knows about a teacher, as typed records: policy, protocol, actions, scores, lineage.

It may import no other room of the store.
"""
