// Command cloister runs network isolated AKS clusters on one machine.
package main

func main() {}
