#!/usr/bin/env bash
# certificates.sh DIR name=host[,host...] ...: an authority, a certificate of each member, and one of a client, in DIR.
# With a single name the pair is member.crt and member.key, which the configurations beside this file expect. Nothing that is there
# is overwritten; keep ca.key away from the members.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 DIR name=host[,host...] ..." >&2; exit 2; }
umask 077
mkdir -p "$1" && cd "$1"
shift
new=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)

[ -e ca.key ] || openssl req -x509 "${new[@]}" -keyout ca.key -out ca.crt -days 3650 -subj "/CN=keelson authority" \
	-addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null

# issue FILE CN SAN
issue() {
	[ ! -e "$1.key" ] || return 0
	openssl req "${new[@]}" -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>/dev/null
	openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -days 365 -out "$1.crt" -extfile <(
		printf 'extendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n%s\n' "${3:+subjectAltName=$3}"
	) 2>/dev/null
	rm "$1.csr"
}

for member in "$@"; do
	names=DNS:localhost,IP:127.0.0.1
	for host in $(tr , ' ' <<<"${member#*=}"); do
		[[ $host =~ ^[0-9.]+$|: ]] && names+=",IP:$host" || names+=",DNS:$host"
	done
	file=${member%%=*}
	[ $# -gt 1 ] || file=member
	issue "$file" "${member%%=*}" "$names"
done
issue client client ""
