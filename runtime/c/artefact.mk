# `make` builds the program cdrmix-run and the library libmodel.so from this folder's sources.
# For another machine: make CC=aarch64-linux-gnu-gcc ARCH=

CC := $(or $(strip $(CC)),cc)
ARCH ?= $(shell $(CC) -march=native -E -x c /dev/null >/dev/null 2>&1 && echo -march=native)
# without contraction every machine prints the same digits
CFLAGS ?= -O3 $(ARCH)
CHECKED = -std=c99 -ffp-contract=off -Wall -Wextra -pedantic

all: cdrmix-run libmodel.so

cdrmix-run: main.c model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) -o $@ main.c model.c tokenizer.c -lm

# made beside its name: another process may be loading it.  The sums let Python run it where there is no compiler
libmodel.so: model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) -fPIC -shared -o $@.$$$$ model.c tokenizer.c -lm && mv -f $@.$$$$ $@
	cksum $^ $@ >$@.cksum

clean:
	rm -f cdrmix-run libmodel.so libmodel.so.cksum

.PHONY: all clean
