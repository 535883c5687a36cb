"""Two parties hold one half of each MNIST digit, and train one model together."""
