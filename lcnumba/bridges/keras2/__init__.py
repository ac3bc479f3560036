"""Files and weights of Keras 2, and of Keras 3 where it kept the layers."""
