"""The tables of the NeaR and MaKD papers, computed by the pipeline, with the papers' numbers beside."""
