// What holds a Pod's namespaces open: it does nothing until it is told to end, and
// collects processes that lost their parents, as process 1 has to.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
  sigset_t set;
  int signal_number;

  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
    return EXIT_FAILURE;
  for (;;) {
    if (sigwait(&set, &signal_number) != 0)
      return EXIT_FAILURE;
    if (signal_number != SIGCHLD)
      return EXIT_SUCCESS;
    while (waitpid(-1, NULL, WNOHANG) > 0)
      ;
  }
}
