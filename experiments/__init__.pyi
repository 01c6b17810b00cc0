"""What the application offers: fine-tune and predict from Python, and what tasks are made of."""

from .answers import Answers as Answers
from .answers import Decoding as Decoding
from .api import FoundConfig as FoundConfig
from .api import finetune as finetune
from .api import search_ranks as search_ranks
from .models import ModelSpec as ModelSpec
from .predicting.fine_tuned import FineTuned as FineTuned
from .predicting.fine_tuned import load as load
from .tasks.classification import Classification as Classification
from .tasks.examples import Example as Example
from .tasks.examples import TaggedExample as TaggedExample
from .tasks.examples import TextExample as TextExample
from .tasks.generation import Generation as Generation
from .tasks.kinds.labelled import LabelledData as LabelledData
from .tasks.kinds.tags import TaggedData as TaggedData
from .tasks.kinds.text import TextData as TextData
from .tasks.reading.files import read_rows as read_rows
from .tasks.reading.splits import find_split as find_split
from .tasks.reading.text import read_text as read_text
from .tasks.tagging import Tagging as Tagging
from .tasks.task import Length as Length
from .tasks.task import Subset as Subset
from .tasks.task import Task as Task
from .tasks.task import TaskData as TaskData
from .tasks.text_to_text import TextToText as TextToText
