# Functions for .ci/run, .ci/nightly and the Makefile, which source this file from the
# repository's root. A check is a function here, not a line of a CI system's configuration,
# so that a developer can run each one as CI does.

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export ASIDE_CI_RUN=$$ # inherited by every process that a step starts

# step prints the name of a step, and before it the time that the last one took.
began=$SECONDS last=
finish_step() { [ -z "$last" ] || printf -- '-- %s: %d s\n' "$last" $((SECONDS - began)); }
step() {
	finish_step
	last=$*
	began=$SECONDS
	printf '\n== %s\n' "$last"
}

# install_missing installs the programs that a bare Debian machine lacks, and sets the
# variables with which a test fails, rather than skips, if its program is missing.
install_missing() {
	step "install missing programs"
	local need=() had_redis had_postgres
	command -v redis-server >/dev/null || need+=(redis-server)
	command -v redis-cli >/dev/null || need+=(redis-tools)
	command -v spin >/dev/null || need+=(spin)
	command -v gcc >/dev/null || need+=(gcc libc6-dev)
	command -v chromium >/dev/null || need+=(chromium fonts-noto-cjk)
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need+=(postgresql)
	/usr/bin/python3 -c 'import redis, dotenv' 2>/dev/null || need+=(python3 python3-redis python3-dotenv)
	if [ ${#need[@]} -gt 0 ]; then
		had_redis=$(command -v redis-server || true)
		had_postgres=$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null || true)
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
		# The packages start servers that no test uses.
		[ -n "$had_redis" ] || { service redis-server stop || true; } >/dev/null 2>&1
		[ -n "$had_postgres" ] || { service postgresql stop || true; } >/dev/null 2>&1
	fi
	redis-server --version
	go version
	export ASIDE_TEST_REQUIRE_REDIS=1 ASIDE_TEST_REQUIRE_POSTGRES=1 ASIDE_TEST_REQUIRE_BROWSER=1 ASIDE_TEST_REQUIRE_PYTHON=1 ASIDE_TEST_PYTHON=/usr/bin/python3
}

# lint checks the format and the code of all modules, also under the build tag soak.
lint() {
	local unformatted
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { echo "gofmt: $unformatted"; return 1; }
	go vet ./... ./asideotel/... ./asideprom/... ./bench/... ./examples/... ./proof/...
	go vet -tags soak ./proof
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./... ./asideotel/... ./asideprom/... ./bench/... ./examples/... ./proof/...
}

# tidy fails if a go.mod or go.sum is not as go mod tidy leaves it. Each module is checked
# without the workspace, as its users have none.
tidy() {
	local dir
	for dir in . asideotel asideprom bench examples proof; do
		(cd "$dir" && GOWORK=off go mod tidy -diff)
	done
}

# knot fails when the root has more files or exported names than these limits, or when more
# of its files need each other. Lower the limits with the counts, and never raise them.
knot() {
	go run ./proof/knot -files 24 -names 39 -knot 6
}

# race runs the tests under the race detector, without those that take minutes with it.
# .ci/nightly runs these.
race() {
	go test -race -timeout 30m -skip 'TestMemory_|TestJSONHasOneMeaning|WhatOtherPrograms|TestALease|TestALost|TestAClaim|TestScripts|TestSecrets' ./... ./asideotel/... ./asideprom/...
	go test -race -run '^TestSimulation$' ./proof -seeds 50
}

# alerts checks the alert rules with promtool, from a package that is not installed.
alerts() {
	(cd "$tmp" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb prometheus)
	"$tmp/prometheus/usr/bin/promtool" check rules asideprom/alerts.yaml
}

# The servers of .ci/engines stay in this folder between runs.
engines=${XDG_CACHE_HOME:-$HOME/.cache}/aside/engines

# have fetches the engines and prints their versions, or in capital letters the name of one
# that could not be fetched. It then fails.
have() {
	local engine missing=0
	.ci/engines "$engines" || true
	for engine in "$@"; do
		if "$engines/$engine/redis-server" --version 2>/dev/null; then continue; fi
		printf 'NOT TESTED ON %s: IT COULD NOT BE FETCHED\n' "$(echo "$engine" | tr a-z- 'A-Z ')"
		missing=1
	done
	return $missing
}

# on runs go test with the servers of an engine first on the PATH. It does nothing if the
# engine could not be fetched, which have has reported.
on() {
	local engine=$1
	shift
	[ -x "$engines/$engine/redis-server" ] || return 0
	PATH=$engines/$engine:$PATH go test -count=1 "$@" >"$tmp/$engine" 2>&1 || { sed "s/^/$engine: /" "$tmp/$engine"; return 1; }
	sed "s/^/$engine: /" "$tmp/$engine" | grep -E 'ok '
}

# trouble runs tests of the root on both engines at once, as they mostly wait.
trouble() {
	local one failed=0
	on redis-8 "$@" . & one=$!
	on valkey-8 "$@" . || failed=1
	wait $one || failed=1
	return $failed
}

# models checks the models of the protocol, and prints how many have no error.
models() {
	docs/protocol/run >"$tmp/models" || { cat "$tmp/models"; return 1; }
	echo "$(grep -c '^| .* | no error |' "$tmp/models") models without an error"
}

# breakages applies deliberate bugs and checks that a test catches each. Arguments are those
# of proof/mutate.
breakages() {
	go run ./proof/mutate "$@" >"$tmp/breakages" || { cat "$tmp/breakages"; return 1; }
	tail -1 "$tmp/breakages"
}

# fuzz runs every fuzz target of the root and the internal packages for the given time.
fuzz() {
	local file line
	grep -o '^func Fuzz[A-Za-z0-9_]*' *_test.go internal/*/*_test.go | while IFS=: read -r file line; do
		go test -run '^$' -fuzz "^${line#func }\$" -fuzztime "$1" "./$(dirname "$file")" >"$tmp/fuzz" 2>&1 </dev/null || {
			# Go sometimes reports the end of the time as a failure, which then has no input.
			grep -q "context deadline exceeded" "$tmp/fuzz" && ! grep -q "Failing input" "$tmp/fuzz" || { tail -50 "$tmp/fuzz"; return 1; }
		}
		tail -3 "$tmp/fuzz" | head -1
	done
}

# nothing_left fails when a process that a step started still runs, or a file is left. It
# knows the processes by the variable of this run in their environment, so that other programs
# of the machine do not count.
nothing_left() {
	step "no process and no file is left"
	local dir pid left=0
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		[ "$pid" != $$ ] || continue
		if tr '\0' '\n' <"$dir/environ" 2>/dev/null | grep -qx "ASIDE_CI_RUN=$$"; then
			case $(tr '\0' ' ' <"$dir/cmdline" 2>/dev/null) in
			"" | tr* | grep* | *"/.ci/"* | ".ci/"*) ;;
			*) printf 'still running: %s %s\n' "$pid" "$(tr '\0' ' ' <"$dir/cmdline")"; left=1 ;;
			esac
		fi
	done 2>/dev/null
	[ -z "$(git status --porcelain)" ] || { echo "files were left:"; git status --short; left=1; }
	[ "$left" = 0 ] || exit 1
	finish_step
}
