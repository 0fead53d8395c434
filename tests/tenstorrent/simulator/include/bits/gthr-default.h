// No threads: stands for libstdc++'s POSIX layer.
#pragma once
