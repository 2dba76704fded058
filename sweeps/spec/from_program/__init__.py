"""What a training script or a configuration reveals, for `sweep init --from`."""
