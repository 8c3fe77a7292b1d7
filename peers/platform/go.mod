// How the suites of real clients start the platform. Of the standard library only, so that it brings no version into their
// modules.
module github.com/keelson-io/keelson/peers/platform

go 1.26.0
