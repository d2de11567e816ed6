"""EnvPool lanes, behaviour policy, chunk writer and the acting loop."""
