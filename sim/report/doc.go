// Package report writes the course of a simulator's run as one HTML file that needs nothing else: no network, no other file, and scripts only
// to step through the map and to search the events.
//
// What a run says of machines, and every text of a scenario, goes through html/template: a name that looks like markup stays text.
package report
