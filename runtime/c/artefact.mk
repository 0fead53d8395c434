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

CFLAGS ?= -O3 $(ARCH)
# without contraction every machine prints the same digits; nobody asks for traps or errno, and a choice between two
# numbers is made without a branch then, many at once
CHECKED = -std=c99 -ffp-contract=off -fno-trapping-math -fno-math-errno -Wall -Wextra -pedantic
ENDING := $(if $(findstring -windows,$(CROSS)),.exe,$(if $(findstring -wasi,$(CROSS)),.wasm))
LIBRARY := $(or $(patsubst .%,model.%,$(ENDING:.exe=.dll)),libmodel.so)
SHARED := -fPIC -shared
CHECKED += $(if $(findstring -wasi,$(CROSS))$(findstring -windows,$(CROSS)),,-pthread)
ifneq ($(findstring -windows,$(CROSS)),)
SHARED := -shared -s
endif
ifneq ($(findstring -wasi,$(CROSS)),)
CHECKED += -Wno-gnu-statement-expression -msimd128 -Wl,-z,stack-size=1048576,-s
API := open close vocab state_size state_init state_tokens state_latest state_memory state_fork state_free state_save \
  state_load state_read step prefill step_values error_text kernels_name tokenizer_open tokenizer_close tokenizer_vocab \
  tokenizer_eot encode encode_special token_bytes random_at draw sample
SHARED := -mexec-model=reactor $(foreach name,malloc free $(addprefix cdr_,$(API)),-Wl,--export-if-defined=$(name))
endif

all: cdrmix-run$(ENDING) $(LIBRARY)

cdrmix-run$(ENDING): main.c model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) -o $@ main.c model.c tokenizer.c -lm

# made beside its name: another process may be loading it.  The sums let Python run it where there is no compiler
$(LIBRARY): model.c tokenizer.c model.h tokenizer.h
	$(CC) $(CHECKED) $(CFLAGS) $(SHARED) -o $@.$$$$ model.c tokenizer.c -lm && mv -f $@.$$$$ $@
	cksum $^ $@ >$@.cksum

libmodel.a: model.c tokenizer.c model.h tokenizer.h
	for part in model tokenizer; do $(CC) $(CHECKED) $(CFLAGS) -fPIC -c -o $$part.o $$part.c || exit; done
	rm -f $@ && $(AR) rcs $@ model.o tokenizer.o && rm -f model.o tokenizer.o

# `make install PREFIX=/usr/local` puts all of it where `pkg-config --cflags --libs cdrmix-NAME` finds it; DESTDIR goes in
# front of where files are written
PREFIX ?= /usr/local
INSTALLED := cdrmix-$(or $(NAME),model)
define PKGCONFIG
prefix=$(PREFIX)
libdir=$${prefix}/lib
includedir=$${prefix}/include/$(INSTALLED)
model=$${prefix}/share/$(INSTALLED)

Name: $(INSTALLED)
Description: a language model compiled by CDRmix; its variable `model` is the folder of weights and tokenizer
Version: 1
Cflags: -I$${includedir}
Libs: -L$${libdir} -l$(INSTALLED)
Libs.private: -lm -pthread
endef
export PKGCONFIG
# a new file, not new content: another process may be running the old one
put = cp $(1) "$(DESTDIR)$(PREFIX)/$(2).$$$$" && mv -f "$(DESTDIR)$(PREFIX)/$(2).$$$$" "$(DESTDIR)$(PREFIX)/$(2)"

install: cdrmix-run$(ENDING) $(LIBRARY) libmodel.a
	for folder in bin include/$(INSTALLED) lib/pkgconfig share/$(INSTALLED); do \
		mkdir -p "$(DESTDIR)$(PREFIX)/$$folder" || exit; done
	$(call put,cdrmix-run$(ENDING),bin/$(INSTALLED)$(ENDING))
	$(call put,$(LIBRARY),lib/lib$(INSTALLED)$(suffix $(LIBRARY)))
	$(call put,libmodel.a,lib/lib$(INSTALLED).a)
	for file in model.h tokenizer.h; do $(call put,$$file,include/$(INSTALLED)/$$file) || exit; done
	for file in $(wildcard manifest.json weights.safetensors tokenizer.json); do \
		$(call put,$$file,share/$(INSTALLED)/$$file) || exit; done
	echo "$$PKGCONFIG" >"$(DESTDIR)$(PREFIX)/lib/pkgconfig/$(INSTALLED).pc"

uninstall:
	cd "$(DESTDIR)$(PREFIX)" && rm -rf bin/$(INSTALLED)$(ENDING) include/$(INSTALLED) lib/lib$(INSTALLED).a \
		lib/lib$(INSTALLED)$(suffix $(LIBRARY)) share/$(INSTALLED) lib/pkgconfig/$(INSTALLED).pc

clean:
	rm -f cdrmix-run$(ENDING) $(LIBRARY) $(LIBRARY).cksum model.lib libmodel.a model.o tokenizer.o

.PHONY: all install uninstall clean
