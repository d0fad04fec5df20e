#!/bin/sh
# A certificate authority for one Dask cluster, certificates of it, and the configuration that makes Dask use them.
#
#     sh make_certificates.sh DIRECTORY HOST...
#
# DIRECTORY must not exist. HOST are the names and addresses by which the processes are reached; localhost is added.
# The certificates are valid for a year. Everything can be read by its owner alone.

set -eu
umask 077
unset CDPATH

fail() {
    echo "make_certificates.sh: $1" >&2
    exit "${2:-1}"
}

[ $# -ge 2 ] || fail "expected DIRECTORY HOST..." 2
directory=$1
shift
names=DNS:localhost,IP:127.0.0.1,IP:::1
for host in "$@"; do
    case $host in
        "" | *[!A-Za-z0-9.:*-]*) fail "'$host' is neither the name nor the address of a host" 2 ;;
        *:*) names=$names,IP:$host ;;
        *[!0-9.]*) names=$names,DNS:$host ;;
        *) names=$names,IP:$host ;;
    esac
done
command -v openssl >/dev/null || fail "openssl is not installed"

# Made here, and with this umask, so nobody else can have put anything into it.
mkdir -- "$directory" || fail "name a directory that does not exist yet: every process needs certificates of one run"
cd -- "$directory"
directory=$(pwd -P)
finished=
give_up() {
    [ ! -e openssl.log ] || cat openssl.log >&2
    rm -rf -- "$directory"
}
trap '[ "$finished" ] || give_up' EXIT
trap 'exit 130' INT TERM HUP

cat >openssl.cnf <<END
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
# Each worker is a server to the others and a client of the scheduler.
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
# With a client's certificate nobody can pose as a scheduler or a worker.
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END

key() { # ROLE
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1-key.pem" 2>openssl.log
}

certificate() { # ROLE KIND
    key "$1"
    openssl req -new -config openssl.cnf -key "$1-key.pem" -subj "/CN=daskgmm $1" -out "$1.csr" 2>openssl.log
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -set_serial "0x$(openssl rand -hex 16)" -sha256 \
        -days 365 -extfile openssl.cnf -extensions "$2" -out "$1.pem" 2>openssl.log
    rm "$1.csr"
}

key ca
openssl req -x509 -new -config openssl.cnf -extensions ca -key ca-key.pem -sha256 -days 365 \
    -set_serial "0x$(openssl rand -hex 16)" -subj "/CN=daskgmm cluster" -out ca.pem 2>openssl.log
certificate scheduler server
certificate worker server
certificate client client
rm openssl.cnf openssl.log

quoted=$(printf '%s' "$directory" | sed "s/'/''/g")
cat >tls.yaml <<END
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: '$quoted/ca.pem'
      scheduler:
        cert: '$quoted/scheduler.pem'
        key: '$quoted/scheduler-key.pem'
      worker:
        cert: '$quoted/worker.pem'
        key: '$quoted/worker-key.pem'
      client:
        cert: '$quoted/client.pem'
        key: '$quoted/client-key.pem'
END
finished=yes
echo "$directory"
