# `make` builds the program cdrmix-run and the library libmodel.so from this folder's runner/.
# Neither needs anything of NVIDIA's or AMD's to be built; the driver is loaded when they run.

CC := $(or $(strip $(CC)),cc)
CFLAGS ?= -O2
CHECKED = -std=c99 -Wall -Wextra -pedantic

PROGRAM = runner/main.c runner/options.c
LIBRARY = $(sort $(filter-out $(PROGRAM),$(wildcard runner/*.c)))
HEADERS = $(wildcard runner/*.h)
LINK = -lm -ldl -pthread

all: cdrmix-run libmodel.so

cdrmix-run: $(PROGRAM) $(LIBRARY) $(HEADERS)
	$(CC) $(CHECKED) $(CFLAGS) -Irunner -o $@ $(PROGRAM) $(LIBRARY) $(LINK)

# made beside its name: another process may be loading it
libmodel.so: $(LIBRARY) $(HEADERS)
	$(CC) $(CHECKED) $(CFLAGS) -Irunner -fPIC -shared -o $@.$$$$ $(LIBRARY) $(LINK) && mv -f $@.$$$$ $@

clean:
	rm -f cdrmix-run libmodel.so

.PHONY: all clean
