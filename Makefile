# OmenDB. Needs GNU make and a C11 compiler; python3 only to regenerate omendb.c after an edit.
#
#   make                libraries and shell, in build/
#   make demo           a database of real data: made, searched, killed, reopened
#   make test           the fast suite; the last line is "N passed, M failed"
#   make check          everything that CI runs
#   make sanitize       the suite under ASan with UBSan, then under TSan
#   make arm64          the suite cross-compiled, under qemu-user
#   make bench          the benchmarks
#   make crash, soak    the long campaigns
#   make install        PREFIX=/usr/local DESTDIR=
#   make amalgamation   omendb.c from the modules in amalgamation/
#   make format         clang-format on our sources
#
# Variables: CC, CXX, CFLAGS, LDFLAGS, BUILD (the folder of the outputs), SANITIZE (as of -fsanitize=),
# RUNNER (put before every test program), WERROR (empty: warnings do not stop the build), TESTS (names
# of test programs to run instead of all).

CC       ?= cc
CXX      ?= c++
CFLAGS   ?= -O2 -g
CXXFLAGS ?= -O2 -g
PYTHON   ?= python3
BUILD    ?= build
PREFIX   ?= /usr/local
WERROR   ?= -Werror
SANITIZE ?=
RUNNER   ?=

version := $(shell sed -n 's/^.define OMENDB_VERSION  *"\(.*\)".*/\1/p' omendb.h)
abi     := $(shell sed -n 's/^.define OMENDB_ABI_VERSION  *\([0-9]*\).*/\1/p' omendb.h)
system  := $(shell uname -s)

# ---------------------------------------------------------------------------------------------------
# flags

warnings := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wvla $(WERROR)

ifeq ($(SANITIZE),)
hardening      := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
sanitize_flags :=
else
hardening      :=
sanitize_flags := -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif

# What programs are compiled with. Every one is C11, as a stranger's would be, with omendb.h in sight.
c_flags   := -std=c11 $(CFLAGS) $(warnings) $(hardening) $(sanitize_flags) -I.
cxx_flags := -std=c++17 $(CXXFLAGS) -Wall -Wextra $(WERROR) $(hardening) $(sanitize_flags) -I.
libraries := -lm -lpthread

library_flags := $(c_flags) -fPIC -fvisibility=hidden

ifeq ($(system),Darwin)
shared      := libomendb.dylib
shared_name := libomendb.$(abi).dylib
link_shared := -dynamiclib -install_name $(PREFIX)/lib/$(shared_name)
else
shared      := libomendb.so
shared_name := libomendb.so.$(abi)
link_shared := -shared -Wl,-soname,$(shared_name) -Wl,-z,relro,-z,now
ifeq ($(SANITIZE),)
link_shared += -Wl,--no-undefined
endif
endif

# A program that must be static (for qemu) has no use for a shared library, and a sanitized library
# cannot be loaded into a program that is not.
outputs := $(BUILD)/libomendb.a
ifeq ($(SANITIZE)$(findstring -static,$(LDFLAGS)),)
outputs += $(BUILD)/$(shared)
endif

shell_sources := $(wildcard amalgamation/shell/*.c)
shell_objects := $(patsubst amalgamation/shell/%.c,$(BUILD)/shell/%.o,$(shell_sources))
ifneq ($(wildcard amalgamation/shell/shell.c),)
outputs += $(BUILD)/omendb
endif

all: $(outputs)

# ---------------------------------------------------------------------------------------------------
# omendb.c

modules := $(wildcard amalgamation/*.c amalgamation/*.h)

amalgamation: omendb.c

# Without python3 the checked-in file is used as it is.
omendb.c: $(modules) amalgamation/modules.txt amalgamation/amalgamate.py
	@if command -v $(PYTHON) >/dev/null; then echo "  JOIN     $@"; $(PYTHON) amalgamation/amalgamate.py; \
	else echo "$(PYTHON) was not found: omendb.c is used as it is"; fi

# ---------------------------------------------------------------------------------------------------
# libraries, shell

$(BUILD)/omendb.o: omendb.c omendb.h
	@mkdir -p $(@D)
	$(CC) $(library_flags) -c $< -o $@

$(BUILD)/libomendb.a: $(BUILD)/omendb.o
	rm -f $@
	$(AR) rcs $@ $<

$(BUILD)/$(shared): $(BUILD)/omendb.o
	$(CC) $(sanitize_flags) $(LDFLAGS) $(link_shared) $< -o $@ $(libraries)
	ln -sf $(shared) $(BUILD)/$(shared_name)

$(BUILD)/shell/%.o: amalgamation/shell/%.c $(wildcard amalgamation/shell/*.h) omendb.h
	@mkdir -p $(@D)
	$(CC) $(c_flags) -c $< -o $@

$(BUILD)/omendb: $(shell_objects) $(BUILD)/libomendb.a
	$(CC) $(sanitize_flags) $(LDFLAGS) $^ -o $@ $(libraries)

# ---------------------------------------------------------------------------------------------------
# examples, tests, benchmarks
#
# A white-box program includes omendb.c itself and links nothing of ours; every other one links the
# library that users get.

includes_library = $(shell grep -l '^.include "omendb.c"' $(1) /dev/null)

define white_box_rule
$(BUILD)/$(1:.c=): $(1) omendb.c omendb.h $(wildcard $(dir $(1))*.h)
	@mkdir -p $$(@D)
	$$(CC) $$(c_flags) $$(LDFLAGS) $$< -o $$@ $$(libraries)
endef

define black_box_rule
$(BUILD)/$(1:.c=): $(1) $(BUILD)/libomendb.a omendb.h $(wildcard $(dir $(1))*.h)
	@mkdir -p $$(@D)
	$$(CC) $$(c_flags) $$(LDFLAGS) $$< $(BUILD)/libomendb.a -o $$@ $$(libraries)
endef

programs  := $(wildcard tests/*.c bench/*.c examples/*.c)
white_box := $(call includes_library,$(programs))

$(foreach program,$(white_box),$(eval $(call white_box_rule,$(program))))
$(foreach program,$(filter-out $(white_box),$(programs)),$(eval $(call black_box_rule,$(program))))

$(BUILD)/examples/%_cpp: examples/%.cpp $(BUILD)/libomendb.a omendb.h $(wildcard examples/*.hpp)
	@mkdir -p $(@D)
	$(CXX) $(cxx_flags) $(LDFLAGS) $< $(BUILD)/libomendb.a -o $@ $(libraries)

# The emulated vector types cross function calls without the instruction set that names them.
$(BUILD)/tests/test_kernels_emulated: c_flags += -Wno-psabi
# It reads the shell's own sources.
$(BUILD)/tests/test_readers: $(wildcard amalgamation/shell/*.[ch])

# TESTS given by the user: only those, and neither the shell nor the examples.
TESTS    ?= $(patsubst tests/%.c,%,$(wildcard tests/test_*.c tests/fault_*.c tests/crash_*.c))
tests    := $(TESTS:%=$(BUILD)/tests/%)
ifeq ($(origin TESTS),file)
examples := $(patsubst %.c,$(BUILD)/%,$(wildcard examples/*.c)) \
            $(patsubst %.cpp,$(BUILD)/%_cpp,$(wildcard examples/*.cpp))
scripts  := $(if $(SANITIZE)$(RUNNER),,$(wildcard tests/test_*.py tests/test_*.sh))
needed   := $(outputs)
endif
crash    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/crash_*.c))
soak     := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/soak_*.c))
benches  := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/bench_*.c))

$(BUILD)/demo: $(BUILD)/examples/demo
	cp $< $@

demo: $(BUILD)/demo
	$(BUILD)/demo

tests: $(needed) $(tests) $(examples)

test: tests
	@BUILD=$(BUILD) RUNNER="$(RUNNER)" PYTHON="$(PYTHON)" sh tests/run.sh $(tests) $(examples) $(scripts)

check:
	sh tests/check.sh

# Each build has its own folder: an object is never shared between them. Warnings do not stop it, as
# instrumented code confuses those that follow the flow of values; the plain build is strict.
sanitize:
	$(MAKE) BUILD=$(BUILD)/asan SANITIZE=address,undefined $(sanitized) test
	$(MAKE) BUILD=$(BUILD)/tsan SANITIZE=thread $(sanitized) test

sanitized := CFLAGS="-O1 -g" CXXFLAGS="-O1 -g" WERROR= PYTHON=false

arm64:
	$(MAKE) BUILD=$(BUILD)/arm64 CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ \
	    AR=aarch64-linux-gnu-ar LDFLAGS=-static RUNNER="qemu-aarch64 -cpu max" \
	    PYTHON=false test

bench: $(outputs) $(benches)
	BUILD=$(BUILD) sh bench/run.sh

# The campaigns run until they are done, hours if so told by their own variables.
crash: $(outputs) $(crash)
	@BUILD=$(BUILD) RUNNER="$(RUNNER)" LIMIT=0 sh tests/run.sh $(crash)

soak: $(outputs) $(soak)
	@BUILD=$(BUILD) RUNNER="$(RUNNER)" LIMIT=0 sh tests/run.sh $(soak)

# ---------------------------------------------------------------------------------------------------
# installation

to := $(DESTDIR)$(PREFIX)

define pkg_config
prefix=$(PREFIX)
libdir=$${prefix}/lib
includedir=$${prefix}/include

Name: OmenDB
Description: Embeddable vector database
Version: $(version)
Libs: -L$${libdir} -lomendb
Libs.private: $(libraries)
Cflags: -I$${includedir}
endef
export pkg_config

install: all
	mkdir -p $(to)/lib/pkgconfig $(to)/include $(to)/bin
	install -m 644 omendb.h $(to)/include/
	install -m 644 $(BUILD)/libomendb.a $(to)/lib/
	install -m 755 $(BUILD)/$(shared) $(to)/lib/$(shared_name)
	ln -sf $(shared_name) $(to)/lib/$(shared)
	install -m 755 $(BUILD)/omendb $(to)/bin/
	printenv pkg_config > $(to)/lib/pkgconfig/omendb.pc

uninstall:
	rm -f $(to)/include/omendb.h $(to)/lib/libomendb.a $(to)/lib/$(shared) $(to)/lib/$(shared_name)
	rm -f $(to)/bin/omendb $(to)/lib/pkgconfig/omendb.pc

clean:
	rm -rf $(BUILD)

format:
	clang-format -i omendb.h $(modules) $(wildcard amalgamation/shell/*.[ch] tests/*.[ch] \
	    bench/*.[ch] examples/*.[ch] examples/*.cpp)

.PHONY: all amalgamation arm64 bench check clean crash demo format install sanitize soak test tests \
        uninstall
.DELETE_ON_ERROR:
