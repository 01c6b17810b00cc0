from .method import SourceWeights as SourceWeights
