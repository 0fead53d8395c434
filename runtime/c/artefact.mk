# `make` builds the program cdrmix-run and the library libmodel.so from this folder's sources, for TRIPLE; where that is
# empty, or the machine that make runs on, for this machine.  For another one: make TRIPLE=aarch64-linux-gnu
TRIPLE ?=
HERE := $(subst arm64-,aarch64-,$(shell uname -m)-$(subst Darwin,macos,$(subst Linux,linux,$(shell uname -s))))
CROSS := $(filter-out $(HERE) $(HERE)-gnu,$(TRIPLE))

ifeq ($(CROSS),)
CC := $(or $(strip $(CC)),cc)
ARCH ?= $(shell $(CC) -march=native -E -x c /dev/null >/dev/null 2>&1 && echo -march=native)
else
# Debian's compilers, or Zig's (pip install ziglang), which has all systems' libraries; or make CC=...
CPU := $(firstword $(subst -, ,$(CROSS)))
WASI_ROOT ?= /usr
NAMES := $(CROSS)-gcc $(if $(findstring -windows,$(CROSS)),$(CPU)-w64-mingw32-gcc)
FOUND := $(firstword $(foreach name,$(NAMES),$(shell command -v $(name))))
CLANG := $(if $(findstring -wasi,$(CROSS)),$(if $(wildcard $(WASI_ROOT)/lib/wasm32-wasi),$(shell command -v clang)))
ZIG := python3 -m ziglang cc -target $(CROSS)
GIVEN := $(if $(filter command,$(firstword $(origin CC))),$(CC))
CC := $(or $(GIVEN),$(FOUND),$(if $(CLANG),$(CLANG) --target=$(CROSS) --sysroot=$(WASI_ROOT)),$(ZIG))
endif

# without contraction every machine prints the same digits
CFLAGS ?= -O3 $(ARCH)
CHECKED = -std=c99 -ffp-contract=off -Wall -Wextra -pedantic
ENDING := $(if $(findstring -windows,$(CROSS)),.exe,$(if $(findstring -wasi,$(CROSS)),.wasm))
LIBRARY := $(or $(patsubst .%,model.%,$(ENDING:.exe=.dll)),libmodel.so)
SHARED := -fPIC -shared
ifneq ($(findstring -wasi,$(CROSS)),)
CHECKED += -msimd128 -Wl,-z,stack-size=1048576
SHARED := -mexec-model=reactor -Wl,--export-dynamic,--export=malloc,--export=free
endif

all: cdrmix-run$(ENDING) $(LIBRARY)

cdrmix-run$(ENDING): main.c model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) -o $@ main.c model.c tokenizer.c -lm

# made beside its name: another process may be loading it.  The sums let Python run it where there is no compiler
$(LIBRARY): model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) $(SHARED) -o $@.$$$$ model.c tokenizer.c -lm && mv -f $@.$$$$ $@
	cksum $^ $@ >$@.cksum

clean:
	rm -f cdrmix-run$(ENDING) $(LIBRARY) $(LIBRARY).cksum

.PHONY: all clean
