// What answers behind the addresses that the tests on kind give: it says who it is.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	pod, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	answer := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s, from %s\n", os.Getenv("GREETING"), pod)
	}
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(answer)))
}
