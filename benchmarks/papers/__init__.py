"""The tables of the NeaR and MaKD papers, computed by the pipeline, beside the papers' own numbers."""
