"""python -m wanvideo_activation_editor.commands"""

import sys

from . import main

sys.exit(main())
