// Package logs reads and rotates the log files of containers.
//
// # Files
//
// A container writes to one file, whose lines are as the CRI says:
//
//	2016-10-06T00:17:09.669794202Z stdout F a whole line
//	2016-10-06T00:17:10.113242941Z stderr P the first part of a line that was too long
//
// When it is too large, a Rotator renames it to <path>.<time>, has the runtime open a new one, and compresses the older ones to
// <path>.<time>.gz:
//
//	0.log  0.log.20260102-150405  0.log.20260102-140102.gz
//
// # Reading
//
// Read takes all of them for one log, oldest first. It holds the file that it reads open, so that a file that is renamed or
// compressed meanwhile is read to its end, and finds its place among the rotated ones afterwards: no line is lost and none comes
// twice. It goes on to a new file only when that has something in it, or its writer is gone.
//
// # Concurrency
//
// Any number of Reads may go on while one Rotator works. A Rotator does one pass at a time.
package logs
