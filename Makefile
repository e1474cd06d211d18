# OmenDB. Needs GNU make and a C11 compiler; python3 only to regenerate omendb.c after an edit.
#
#   make                libraries and shell, in build/
#   make omendb         the shell alone, build/omendb; make libomendb: the libraries alone
#   make demo           a database of real data: made, searched, killed, reopened
#   make test           the fast suite; the last line is "N passed, M failed"
#   make check          everything that CI runs
#   make sanitize       the suite under ASan with UBSan, then under TSan
#   make coverage       branches of omendb.c that the suite takes, and those that it does not
#   make arm64          the suite cross-compiled, under qemu-user
#   make bench          the benchmarks
#   make crash, faults, model, kill, soak
#                       the long campaigns; IMAGES, OPERATIONS, KILL and SECONDS say how long
#   make planted        plants bugs into copies of omendb.c, each of which an instrument must find
#   make golden         tests/golden anew: when a format is settled
#   make schedules      all schedules of few threads, up to BOUND preemptions
#   make fuzz           libFuzzer (clang): FUZZ="manifest log ..." SECONDS=3600, of each
#   make fuzz-replay    the committed corpus through the same targets, by any compiler
#   make install        PREFIX=/usr/local DESTDIR=
#   make amalgamation   omendb.c from the modules in amalgamation/
#   make format         clang-format on our sources
#
# Variables: CC, CXX, CFLAGS, LDFLAGS, BUILD (the folder of the outputs), SANITIZE (as of -fsanitize=),
# RUNNER (put before every test program), WERROR (empty: warnings do not stop the build), TESTS (names
# of test programs to run instead of all), BOUND (of make schedules: 3).

CC       ?= cc
CXX      ?= c++
CFLAGS   ?= -O2 -g
CXXFLAGS ?= -O2 -g
PYTHON   ?= python3
BUILD    ?= build
PREFIX   ?= /usr/local
WERROR   ?= -Werror
BOUND    ?= 3
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

# Without these names make would link omendb.c, which is no program, by a rule of its own.
omendb: $(BUILD)/omendb

libomendb: $(filter-out $(BUILD)/omendb,$(outputs))

# ---------------------------------------------------------------------------------------------------
# examples, tests, benchmarks
#
# Most programs link the library that users get; one that includes internals.h links omendb.c with
# internal functions that the linker sees; a white-box program includes omendb.c itself and links
# nothing of ours. The second kind is there for its speed: to compile omendb.c takes half a minute.

includes = $(shell grep -l '^.include "$(1)"' $(2) /dev/null)

define white_box_rule
$(BUILD)/$(1:.c=): $(1) omendb.c omendb.h $(wildcard $(dir $(1))*.h)
	@mkdir -p $$(@D)
	$$(CC) $$(c_flags) $$(LDFLAGS) $$< -o $$@ $$(libraries)
endef

define linked_rule
$(BUILD)/$(1:.c=): $(1) $(2) omendb.h $(wildcard $(dir $(1))*.h)
	@mkdir -p $$(@D)
	$$(CC) $$(c_flags) $$(LDFLAGS) $$< $(2) -o $$@ $$(libraries)
endef

programs  := $(filter-out tests/fuzz_%,$(wildcard tests/*.c bench/*.c examples/*.c))
white_box := $(call includes,omendb.c,$(programs))
inside    := $(call includes,internals.h,$(programs))
black_box := $(filter-out $(white_box) $(inside),$(programs))

$(foreach program,$(white_box),$(eval $(call white_box_rule,$(program))))
$(foreach program,$(inside),$(eval $(call linked_rule,$(program),$(BUILD)/internals.o)))
$(foreach program,$(black_box),$(eval $(call linked_rule,$(program),$(BUILD)/libomendb.a)))

$(BUILD)/internals.o: omendb.c omendb.h
	@mkdir -p $(@D)
	$(CC) $(c_flags) -DOMENDB_INTERNAL= -c $< -o $@

$(BUILD)/examples/%_cpp: examples/%.cpp $(BUILD)/libomendb.a omendb.h $(wildcard examples/*.hpp)
	@mkdir -p $(@D)
	$(CXX) $(cxx_flags) $(LDFLAGS) $< $(BUILD)/libomendb.a -o $@ $(libraries)

# Those that do not compute much are compiled sooner at -O1.
compute := hot
$(patsubst %.c,$(BUILD)/%,$(filter-out $(compute:%=tests/test_%.c),$(white_box))): \
    c_flags += $(if $(filter -O2,$(CFLAGS)),-O1)

# It loads SQLite, where that is installed.
$(BUILD)/tests/test_filters: libraries += -ldl

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
benches  := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/bench_*.c))

$(BUILD)/demo: $(BUILD)/examples/demo
	cp $< $@

$(BUILD)/golden: tests/golden/generate.c tests/support.h omendb.c omendb.h
	@mkdir -p $(@D)
	$(CC) $(c_flags) $(LDFLAGS) $< -o $@ $(libraries)

golden: $(BUILD)/golden
	$(BUILD)/golden tests/golden

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

# Counters are written as they change (%c), so that a child that ends by _exit counts too. test_kill
# is left out: of a killed process the compiler would infer outcomes that never were; so are programs
# that add no branch to the others (COVERAGE_WITHOUT). It is the calls that fail which take the paths
# of errors, so they are repeated more than the rest. One process a program: several would share the
# counters, and each count would wait for the other cores.
coverage:
	rm -rf $(BUILD)/coverage/profiles
	$(covered) tests
	OMENDB_TEST_SCALE=$(COVERAGE_SCALE_FAULTS) $(counters) $(covered) TESTS="$(filter fault_%,$(counted))" test
	OMENDB_TEST_SCALE=$(COVERAGE_SCALE) $(counters) $(covered) TESTS="$(filter-out fault_%,$(counted))" test
	$(PYTHON) tests/coverage.py $(BUILD)/coverage --floor $(COVERAGE_FLOOR)

COVERAGE_SCALE        ?= 0.02
COVERAGE_SCALE_FAULTS ?= 0.5
COVERAGE_FLOOR        ?= 94
COVERAGE_WITHOUT      ?= test_kernels_emulated test_readers test_sessions

counted  = $(filter-out test_kill $(COVERAGE_WITHOUT),$(TESTS))
counters = OMENDB_TEST_JOBS=1 LLVM_PROFILE_FILE=$(abspath $(BUILD))/coverage/profiles/%m%c.profraw
covered  = $(MAKE) BUILD=$(BUILD)/coverage CC=clang CXX=clang++ LDFLAGS=-fprofile-instr-generate \
    CFLAGS="-O1 $(counting)" CXXFLAGS="-O1 $(counting)"
counting := -fprofile-instr-generate -fcoverage-mapping -mllvm -runtime-counter-relocation

arm64:
	$(MAKE) BUILD=$(BUILD)/arm64 CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ \
	    AR=aarch64-linux-gnu-ar LDFLAGS=-static RUNNER="qemu-aarch64 -cpu max" \
	    PYTHON=false test

bench: $(outputs) $(benches)
	BUILD=$(BUILD) sh bench/run.sh

# The campaigns run until they are done, on all cores: crash about an hour on two, model half a day.
IMAGES     ?= 10000000
OPERATIONS ?= 1000000000
KILL       ?= 10000
SECONDS    ?= 3600

crash: $(BUILD)/tests/crash_enumerate
	$(RUNNER) $< --images $(IMAGES)
	$(RUNNER) $< --omit-syncs

faults: $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fault_*.c))
	for program in $^; do OMENDB_TEST_SCALE=2 $(RUNNER) $$program || exit 1; done

model: $(BUILD)/tests/test_model
	$(RUNNER) $< --operations $(OPERATIONS)

kill: $(BUILD)/tests/test_kill
	$(RUNNER) $< $(KILL)

soak: $(BUILD)/tests/soak_mixed
	OMENDB_SOAK_SECONDS=$(SECONDS) $(RUNNER) $<

planted:
	CC="$(CC)" BUILD=$(BUILD) sh tests/planted.sh

# Then, with one preemption less, each atomic operation is a point, too.
schedules: $(BUILD)/tests/test_schedules
	$(CC) $(c_flags) -DSCHEDULE_ATOMICS $(LDFLAGS) tests/test_schedules.c \
	    -o $(BUILD)/tests/schedules_of_atomics $(libraries)
	$< --bound $(BOUND) --most 1000000000
	$(BUILD)/tests/schedules_of_atomics --bound $$(($(BOUND) - 1)) --most 1000000000

# ---------------------------------------------------------------------------------------------------
# fuzzing
#
# The targets share one omendb.o, whose internal functions they can link. The corpus grows in
# $(BUILD)/fuzz/corpus and stays there; what was found lies in $(BUILD)/fuzz/found. FUZZ_ENGINE=0:
# programs that only replay, with FUZZ_SANITIZE or none.

FUZZ          ?= $(patsubst tests/fuzz_%.c,%,$(wildcard tests/fuzz_*.c))
FUZZ_ENGINE   ?= 1
FUZZ_CC       ?= clang
FUZZ_SANITIZE ?= address,undefined
FUZZ_CFLAGS   ?= -O1 -g
FUZZ_SOURCE   ?= omendb.c
fuzz_folder   := $(BUILD)/fuzz
# Left out is what AddressSanitizer finds as well: its comparisons would drown those of inputs.
fuzz_no_check := -fno-sanitize=null,pointer-overflow,object-size,return,unreachable,nonnull-attribute
fuzz_flags    := -std=c11 $(FUZZ_CFLAGS) $(warnings) -I. -DOMENDB_INTERNAL= \
                 -DFUZZ_ENGINE=$(FUZZ_ENGINE)
ifneq ($(FUZZ_SANITIZE),)
fuzz_flags    += -fsanitize=$(FUZZ_SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
ifneq ($(findstring undefined,$(FUZZ_SANITIZE)),)
fuzz_flags    += $(fuzz_no_check)
endif
endif
ifeq ($(FUZZ_ENGINE),1)
fuzz_flags    += -fsanitize-coverage-ignorelist=tests/fuzz_ignore.txt
fuzz_object   := -fsanitize=fuzzer-no-link
fuzz_program  := -fsanitize=fuzzer
endif

$(fuzz_folder)/omendb.o: $(FUZZ_SOURCE) omendb.h tests/fuzz_ignore.txt
	@mkdir -p $(@D)
	$(FUZZ_CC) $(fuzz_flags) $(fuzz_object) -c $< -o $@

$(fuzz_folder)/fuzz_%: tests/fuzz_%.c $(fuzz_folder)/omendb.o $(wildcard tests/fuzz*.h)
	$(FUZZ_CC) $(fuzz_flags) $(fuzz_program) $(LDFLAGS) $< $(fuzz_folder)/omendb.o -o $@ $(libraries)

fuzzers: $(FUZZ:%=$(fuzz_folder)/fuzz_%)

fuzz: fuzzers
	@BUILD=$(fuzz_folder) SECONDS=$(SECONDS) sh tests/fuzz.sh $(FUZZ)

fuzz-replay: fuzzers
	@for name in $(FUZZ); do $(RUNNER) $(fuzz_folder)/fuzz_$$name tests/corpus/$$name || exit 1; done

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
    tests/golden/*.c bench/*.[ch] examples/*.[ch] examples/*.cpp)

.PHONY: all amalgamation arm64 bench check clean coverage crash demo faults format fuzz fuzz-replay \
        fuzzers golden install kill libomendb model omendb planted sanitize schedules soak test tests \
        uninstall
.DELETE_ON_ERROR:
