// Package e2e holds the promises a user can check from outside, each a test of the finished
// binary on hosts made of network namespaces with real TUN devices. A test's name is its promise.
//
// They need root; without it, or without a tool, they are skipped with the reason. They poll with
// deadlines and never wait for a fixed time, except where staying so is the promise. When one
// fails, the logs of its nodes are printed. Each has a lab of its own, and they run side by side, except those that hold the program to a pause or an
// answer of less than some seconds: these come first, one by one.
package e2e
