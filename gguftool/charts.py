"""Charts of importance matrices, for notebooks and scripts: see ``gguftool.show.charts``."""

from gguftool.show.charts import *  # noqa: F403
from gguftool.show.charts import __all__ as __all__
