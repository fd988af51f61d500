"""Choice of KL weight and knobs by short fits."""
