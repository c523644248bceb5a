"""KSM, the actor-critic that weighs knowledge terms."""
