"""Every night: what is worth running again, when it runs, and whether its winner replaces the champion."""
