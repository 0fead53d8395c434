# `make` builds the program cdrmix-run and the library libmodel.so from this folder's sources.
# For another machine: make CC=aarch64-linux-gnu-gcc ARCH=

CC ?= cc
ARCH ?= $(shell $(CC) -march=native -E -x c /dev/null >/dev/null 2>&1 && echo -march=native)
# without contraction every machine prints the same digits
CFLAGS ?= -O3 $(ARCH)
CHECKED = -std=c99 -ffp-contract=off -Wall -Wextra -pedantic

ENGINE = model.c weights.c saved.c errors.c json.c
TEXT = tokenizer.c tokenizer_file.c utf8.c sample.c
HEADERS = $(wildcard *.h)

all: cdrmix-run libmodel.so

cdrmix-run: main.c $(ENGINE) $(TEXT) $(HEADERS)
	$(CC) $(CHECKED) $(CFLAGS) -o $@ main.c $(ENGINE) $(TEXT) -lm

libmodel.so: $(ENGINE) $(TEXT) $(HEADERS)
	$(CC) $(CHECKED) $(CFLAGS) -fPIC -shared -o $@ $(ENGINE) $(TEXT) -lm

clean:
	rm -f cdrmix-run libmodel.so

.PHONY: all clean
