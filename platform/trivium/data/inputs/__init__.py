"""What a trained model is given: files and arrays, prepared as its training's data were."""
