"""How well learning curves are judged, measured on curves of real training runs whose cause is known by construction."""
