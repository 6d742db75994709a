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
	command -v curl >/dev/null || need+=(curl)
	command -v chromium >/dev/null || need+=(chromium fonts-noto-cjk)
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need+=(postgresql)
	/usr/bin/python3 -c 'import redis, dotenv' 2>/dev/null || need+=(python3 python3-redis python3-dotenv)
	NODE_PATH=/usr/share/nodejs node -e 'require("redis")' 2>/dev/null || need+=(nodejs node-redis)
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
	export ASIDE_TEST_REQUIRE_REDIS=1 ASIDE_TEST_REQUIRE_POSTGRES=1 ASIDE_TEST_REQUIRE_BROWSER=1 ASIDE_TEST_REQUIRE_PYTHON=1 ASIDE_TEST_REQUIRE_NODE=1 ASIDE_TEST_PYTHON=/usr/bin/python3
}

# lint checks the format and the code of all modules, also under the build tag soak.
lint() {
	local unformatted
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { echo "gofmt: $unformatted"; return 1; }
	go vet ./... ./asideotel/... ./asideprom/... ./bench/... ./examples/... ./proof/...
	go vet -tags soak ./proof
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./... ./asideotel/... ./asideprom/... ./bench/... ./examples/... ./proof/...
	prose
}

# prose fails when comments have more than 2 clauses without a noun, such as "what is
# stored" or "who waits", in 1,000 words of a package, and prints their lines. One is
# allowed in any package. Counted are the words what, whatever, who and whoever in
# comments of Go files that are neither tests nor testdata. Not counted are quoted text,
# code in doc comments, whose, and who after a noun that it belongs to ("a caller who").
# Files may be named, as in: bash -c '. .ci/common.sh; prose aside.go config*.go'
prose() {
	[ $# -gt 0 ] || set -- $(git ls-files '*.go' ':!*_test.go' ':!*/testdata/*')
	awk '
	FNR == 1 { prev = "" }
	!match($0, /(^|[ \t])\/\/( |$)/) { prev = ""; next }
	{
		text = substr($0, RSTART + RLENGTH)
		gsub(/"[^"]*"|`[^`]*`/, " quoted ", text)
		gsub(/[^A-Za-z]+/, " ", text)
		dir = FILENAME
		if (!sub(/\/[^\/]*$/, "", dir)) dir = "."
		n = split(tolower(text), word, " ")
		words[dir] += n
		for (i = 1; i <= n; prev = word[i++])
			if (word[i] ~ /^(what|who)(ever)?$/ && !(word[i] == "who" && prev ~ /^(caller|reader|writer|waiter|user|operator|author|person)s?$/)) {
				clauses[dir]++
				lines[dir] = lines[dir] FILENAME ":" FNR ":" $0 "\n"
			}
	}
	END {
		for (dir in clauses)
			if (clauses[dir] > 1 && 1000 * clauses[dir] > 2 * words[dir]) {
				printf "%sprose: %s: %d clauses without a noun in %d words; want at most 2 in 1000\n", lines[dir], dir, clauses[dir], words[dir]
				failed = 1
			}
		exit failed
	}' "$@"
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
	go test -race -timeout 30m -skip 'TestMemory_|TestJSONHasOneMeaning|WhatOtherPrograms|TestALease|TestALost|TestAClaim|TestScripts|TestSecrets|TestLanguages|ConformanceWithKeyPrefix|ConformanceOfADisobedientClient|OthersHaveAllConnections|AnswerAlike' ./... ./asideotel/... ./asideprom/...
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

# release_check carries out docs/releasing.md in a clone of HEAD, and has Go take each
# module from its tag. With those alone it builds and runs two programs outside the tree,
# the README's and .ci/consumer. The clone's tags are its own.
release_check() {
	local page=docs/releasing.md root=github.com/cacheaside/aside version dir tag output forbidden modules=()
	git clone -q --depth 1 "file://$PWD" "$tmp/release"
	pushd "$tmp/release" >/dev/null
	version=$(sed -nE 's/^git tag (v[0-9]+\.[0-9]+\.[0-9]+)$/\1/p' $page)
	[ -n "$version" ] || { echo "$page has no command that tags the root"; return 1; }
	grep -qF "## [${version#v}]" CHANGELOG.md || { echo "CHANGELOG.md has no section of $version"; return 1; }
	grep -E '^go mod edit ' $page | bash -e
	for dir in $(git ls-files '*go.mod' | xargs dirname); do
		case $dir in
		.) modules+=("$root@$version") tag=$version ;;
		bench | proof) continue ;; # nothing outside imports them
		*) modules+=("$root/$dir@$version") tag=$dir/$version ;;
		esac
		grep -qxF "git tag $tag" $page && grep -qF "| \`$tag\` |" $page || { echo "$page does not name the tag $tag, of $dir/go.mod"; return 1; }
		(cd "$dir" && GOWORK=off go mod tidy -diff)
		if grep -E "^\s*(require )?$root\S* v" "$dir/go.mod" | grep -v " $version\$"; then
			echo "$page leaves this in $dir/go.mod, which is not of $version"
			return 1
		fi
	done
	git -c user.name=check -c user.email=check@localhost -c commit.gpgsign=false commit -qam "the modules require $version"
	grep -E '^git tag ' $page | bash -e
	popd >/dev/null
	mkdir -p "$tmp/readme" "$tmp/consumer"
	awk '/^```go$/ {inside=1; next} /^```$/ {if (inside) exit} inside' README.md >"$tmp/readme/main.go"
	cp .ci/consumer/main.go "$tmp/consumer"
	(
		cd "$tmp/readme"
		# Without paths in it, the output of each build is found in the cache next time.
		export GOWORK=off GOFLAGS="-modcacherw -trimpath" GONOSUMDB=$root GOPRIVATE=
		GOPROXY=direct GOMODCACHE="$tmp/published" GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$tmp/release.insteadOf" \
			GIT_CONFIG_VALUE_0="https://$root" go mod download "${modules[@]}"
		GOPROXY="file://$tmp/published/cache/download,file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)"
		export GOPROXY GOMODCACHE="$tmp/modcache"
		go mod init example.com/readme 2>/dev/null
		go get $root@$version >"$tmp/get" 2>&1 || { cat "$tmp/get"; exit 1; }
		go build -o program .
		output=$(./program)
		[ "$output" = "[hello] [hello]
[hello world] <nil>" ] || { echo "the README's program printed: $output"; exit 1; }
		forbidden=$(go list -deps $root | grep -E '^testing$|miniredis|go-cmp|porcupine|goleak|rapid|sqlite|godotenv|prometheus|opentelemetry' || true)
		[ -z "$forbidden" ] || { echo "the library links what only tests or examples need: $forbidden"; exit 1; }

		cd "$tmp/consumer"
		go mod init example.com/consumer 2>/dev/null
		go get . "${modules[@]}" >"$tmp/get" 2>&1 || { cat "$tmp/get"; exit 1; }
		go build -o program .
		output=$(./program)
		[ "$output" = "prometheus: 3 reads
opentelemetry: 3 reads
http: 3 reads" ] || { echo "the consumer of all modules printed: $output"; exit 1; }
	)
	echo "${modules[*]}"
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
