// No threads: libstdc++'s headers only ask that the file exists.
#pragma once
