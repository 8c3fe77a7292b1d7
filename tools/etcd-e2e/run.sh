#!/usr/bin/env bash
# Runs etcd's own black-box suites, tests/common and tests/e2e of the release that peers/suite pins, against programs in bin/ and
# bin/peers/, and compares what passes. Nothing of Keelson or etcd is built here: `make build peers` does that before.
#
#   run.sh [-o DIR] [-s SUITES] [-c COMBINATIONS] [-r REGEXP] [-n TRIES] [-b DIR] [-e FILE] [-x]
#
#   -o  where logs and results go (default: a new temporary directory)
#   -s  suites: common,e2e (default: both)
#   -c  combinations (default: etcd,keelson,all)
#         etcd     all programs are etcd's
#         keelson  the server is Keelson's, etcdctl and etcdutl are etcd's
#         all      server, etcdctl and etcdutl are Keelson's
#   -r  run only the tests that match (as go test -run)
#   -n  tries of a test that fails (default 2); the last one counts
#   -b  Keelson's programs (default: bin)
#   -e  etcd.conf.yml.sample, which one test reads (default: that of etcd's repository on the internet, if it can be reached)
#   -x  run nothing, compare what an earlier run left in -o
#
# The exit status is not 0 if a test passes with etcd's programs, not with Keelson's, and is not in exceptions.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out='' suites=common,e2e combinations=etcd,keelson,all match=. tries=2 sample= keelson=$root/bin compare_only=
while getopts o:s:c:r:n:b:e:x flag; do
	case $flag in
	o) out=$OPTARG ;; s) suites=$OPTARG ;; c) combinations=$OPTARG ;; r) match=$OPTARG ;; n) tries=$OPTARG ;; b) keelson=$OPTARG ;; e) sample=$OPTARG ;; x) compare_only=yes ;;
	*) exit 2 ;;
	esac
done
[ -n "$out" ] || out=$(mktemp -d)
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ -z "$compare_only" ] && [ ! -s "$out/work/etcd.conf.yml.sample" ]; then
	mkdir -p "$out/work"
	if [ -n "$sample" ]; then
		cp "$sample" "$out/work/"
	else
		release=$(sed -n 's/.*tests\/v3 \(v[0-9.]*\).*/\1/p' "$root/peers/suite/go.mod")
		curl -fsS -m 20 -o "$out/work/etcd.conf.yml.sample" "https://raw.githubusercontent.com/etcd-io/etcd/$release/etcd.conf.yml.sample" ||
			echo "TestEtcdExampleConfig will fail for want of its file; see -e" >&2
	fi
fi

# The tests bind fixed ports, so they get a network of their own where the system allows it. One of them asks for the address that
# leads to 8.8.8.8 and wants another than that of loopback; and whoever asks for a name there must not wait for an answer.
isolate=-n
unshare -n true 2>/dev/null || isolate=-rn
if [ -z "${SUITE_ISOLATED:-}" ] && [ -z "$compare_only" ] && unshare $isolate true 2>/dev/null; then
	SUITE_ISOLATED=yes exec unshare $isolate -- bash -c '
		ip link set lo up && ip addr add 8.8.8.8/32 dev lo
		exec "$@"' run "$0" -o "$out" -s "$suites" -c "$combinations" -r "$match" -n "$tries" -b "$keelson" -e "$sample"
fi

# programs COMBINATION: a directory with the three programs, and the last release of etcd if `make etcd36` has built it.
programs() {
	local bin=$out/bin/$1 ctl=$root/bin/peers server=$keelson
	case $1 in
	etcd) server=$root/bin/peers ;;
	keelson) ;;
	all) ctl=$keelson ;;
	*) echo "no such combination: $1" >&2; exit 2 ;;
	esac
	mkdir -p "$bin"
	ln -sfn "$server/etcd" "$bin/etcd"
	ln -sfn "$ctl/etcdctl" "$bin/etcdctl"
	ln -sfn "$ctl/etcdutl" "$bin/etcdutl"
	[ ! -x "$root/bin/peers/etcd36" ] || ln -sfn "$root/bin/peers/etcd36" "$bin/etcd-last-release"
	for p in etcd etcdctl etcdutl; do
		[ -x "$bin/$p" ] || { echo "$bin/$p is missing: make build peers" >&2; exit 1; }
	done
}

# results LOG SUITE: a line "suite<TAB>test<TAB>PASS|FAIL|SKIP" for each test and subtest of the log, then the names of those that began
# and never ended.
results() {
	awk -v suite="$2" '
		$1 == "===" && $2 == "RUN" { began[$3] = 1; next }
		$1 == "---" && $2 ~ /^(PASS|FAIL|SKIP):$/ { sub(":", "", $2); print suite "\t" $3 "\t" $2; delete began[$3] }
		END { for (t in began) print suite "\t" t "\tFAIL" }' "$1"
}

# suite COMBINATION SUITE: each test in a process of its own, so that one that hangs or panics takes no other with it.
suite() {
	local work=$out/work/$1-$2 logs=$out/$1/$2 test try log
	rm -rf "$work"
	mkdir -p "$work" "$logs"
	cp -r "$source/fixtures" "$source/$2" "$work/"
	chmod -R u+w "$work"
	cd "$work/$2"
	for test in $("$out/$2.test" -test.list "$match" -bin-dir "$out/bin/$1" | grep '^Test'); do
		log=$logs/$test.log
		for try in $(seq "$tries"); do
			[ ! -e "$log" ] || mv "$log" "$logs/$test.$((try - 1)).log"
			rm -rf ./*.etcd ./localhost:*
			timeout -k 5 1500 "$out/$2.test" -test.v -test.timeout 24m -test.run "^$test\$" -bin-dir "$out/bin/$1" >"$log" 2>&1 </dev/null && break
		done
		results "$log" "$2" >"$logs/$test.tsv"
		echo "$1 $2 $test $(awk -F'\t' '{n[$3]++} END {for (s in n) printf "%s %d ", s, n[s]}' "$logs/$test.tsv")tries $try"
	done
	cd "$root"
}

if [ -z "$compare_only" ]; then
	module=$(cd "$root/peers/suite" && go list -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3)
	[ -n "$module" ] || { (cd "$root/peers/suite" && go mod download go.etcd.io/etcd/tests/v3); module=$(cd "$root/peers/suite" && go list -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3); }
	source=$module
	for s in ${suites//,/ }; do
		[ -x "$out/$s.test" ] || (cd "$root/peers/suite" && CGO_ENABLED=0 go test -c -trimpath -tags e2e,netgo,osusergo -o "$out/$s.test" "go.etcd.io/etcd/tests/v3/$s")
	done
	for c in ${combinations//,/ }; do
		programs "$c"
		for s in ${suites//,/ }; do suite "$c" "$s"; done
	done
fi

# Counts of tests with their subtests, then what differs.
echo
printf '%-12s %-8s %6s %6s %6s\n' programs suite pass fail skip
for c in etcd keelson all; do
	for s in ${suites//,/ }; do
		[ -d "$out/$c/$s" ] || continue
		cat "$out/$c/$s"/*.tsv | awk -F'\t' -v c="$c" -v s="$s" \
			'{n[$3]++} END {printf "%-12s %-8s %6d %6d %6d\n", c, s, n["PASS"], n["FAIL"], n["SKIP"]}'
	done
done
for c in keelson all; do
	for s in ${suites//,/ }; do
		[ -d "$out/$c/$s" ] && [ -d "$out/etcd/$s" ] || continue
		# A test that etcd does not pass proves nothing; a parent is only as good as its subtests.
		awk -F'\t' -v c="$c" -v base="$out/etcd/" -v exceptions="$here/exceptions.txt" '
			FILENAME == exceptions { if ($0 !~ /^#/ && NF) known[$1 "\t" $2] = 1; next }
			index(FILENAME, base) == 1 { if ($3 == "PASS") passes[$1 "\t" $2] = 1; next }
			{ got[$1 "\t" $2] = $3 }
			END {
				for (t in passes) if ((t in got) && got[t] != "PASS") {
					split(t, name, "\t")
					print (t in known ? "known" : "DIFFERS") "\t" c "\t" t "\t" got[t]
				}
			}' "$here/exceptions.txt" $(find "$out/etcd/$s" "$out/$c/$s" -name '*.tsv' | sort)
	done
done | sort >"$out/differences.tsv"
cat "$out/differences.tsv"
echo "logs: $out"
! grep -q ^DIFFERS "$out/differences.tsv"
