module kubernetes-lb-controller/hello

go 1.26.0
