"""How well learning curves are judged, measured on curves of real runs whose cause is known by construction."""
