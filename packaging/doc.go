// Package packaging is what a release is made of besides the binary: the script that builds it, a Dockerfile, a systemd unit
// and configurations of members. Its tests try each of them.
package packaging
