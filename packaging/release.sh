#!/usr/bin/env bash
# release.sh VERSION DIR platform...: archives of static binaries with checksums and SBOMs. The same source gives the same bytes.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 VERSION DIR os/arch..." >&2; exit 2; }
version=$1 dist=$(mkdir -p "$2" && cd "$2" && pwd)
shift 2
cd "$(dirname "$0")/.."
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make=${MAKE:-make}

(cd tools/sbom && go build -o "$work/sbom" .)
rm -f "$dist"/keelson-* "$dist/SHA256SUMS"
for platform in "$@"; do
	name=keelson-$version-${platform%/*}-${platform#*/}
	mkdir -p "$work/$name"
	GOOS=${platform%/*} GOARCH=${platform#*/} $make --no-print-directory build BIN="$work/$name" VERSION="$version" STRIP='-s -w'
	cp -r LICENSE README.md CHANGELOG.md packaging/config packaging/systemd packaging/certificates.sh "$work/$name/"
	"$work/sbom" "$version" "$work/$name/keelson" >"$dist/$name.cdx.json"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --mode=go-w -C "$work" -c "$name" | gzip -n -9 >"$dist/$name.tar.gz"
	rm -rf "${work:?}/$name"
done
(cd "$dist" && sha256sum keelson-* >SHA256SUMS)
ls -l "$dist"
