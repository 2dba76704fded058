"""Whether what a sweep decides by itself helps: steering, and finals against the best of many single runs."""
