"""The teachers of a stage: loaded from the artifact store, or trained first."""
