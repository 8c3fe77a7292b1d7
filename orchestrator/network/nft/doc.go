// Package nft keeps one nftables table of the kernel equal to a table that is described as data.
//
// # The model
//
// A Table says what a table of family inet shall hold: sets and maps with their elements, chains with their rules. A rule is a
// list of statements, each of which carries its text, in the words of the nft program, and the expressions that the kernel
// runs. Two rules are the same when their texts are.
//
// A Writer holds what it last wrote. Sync compares that with what is wanted and sends the difference, in one transaction:
// elements that come and go, chains whose rules changed. What did not change is not touched. Patch takes a change instead of a
// table, and costs what it changes, however large the table is. Check asks the kernel whether the table is still what was
// written, and writes all of it anew, again in one transaction, where somebody deleted or changed it. The kernel counts the
// changes of all tables; while its count is the one of the last look, or grew by the writer's own changes only, there is
// nothing to compare.
//
// The elements of some sets come from packets (Type.Learned). They are no part of what is compared, and stay when the table is
// written anew.
//
// A table has one owner. Others may read it.
//
// # Concurrency
//
// Tables and statements are values that nobody changes once they are given away; Patch changes the table of the last Sync. The
// methods of a Writer may be called from any goroutine.
package nft
