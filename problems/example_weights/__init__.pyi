from .method import ExampleWeights as ExampleWeights
