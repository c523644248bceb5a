"""The teachers of a stage: found in the artifact store, or trained first."""
