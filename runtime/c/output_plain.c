/* Output on systems that lack what output.c uses: beside its name and renamed, too; a link is replaced. */
#include "output.h"
#include "system.h"

#if defined(CDR_NO_POSIX)
#include "errors.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(_WIN32)
#include <io.h>
/* windows.h has too many names of its own. */
__declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to, unsigned long flags);
#define CDR_SYNC(fd) _commit(fd)
#define CDR_RENAME(from, to) (MoveFileExA(from, to, 1 | 8) ? 0 : -1) /* over what is there, and on the disk */
#else
#define CDR_SYNC(fd) fsync(fd)
#define CDR_RENAME(from, to) rename(from, to)
#endif

#if !defined(O_BINARY)
#define O_BINARY 0
#endif

int cdr_output_open(cdr_output *output, const char *path)
{
  struct stat about;
  if (strlen(path) + sizeof ".part" > CDR_LONGEST_OUTPUT) return CDR_PATH_TOO_LONG;
  strcpy(output->path, path);
  output->part[0] = 0;
  const int there = stat(path, &about) == 0;
  if (there && S_ISDIR(about.st_mode)) return CDR_NOT_A_FILE;
  if (!there || S_ISREG(about.st_mode)) {
    strcpy(output->part, path);
    strcat(output->part, ".part");
  }
  const char *to = output->part[0] ? output->part : path;
  output->fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_BINARY, 0666);
  return output->fd < 0 ? CDR_CANNOT_WRITE : CDR_OK;
}

int cdr_output_close(cdr_output *output, int failed)
{
  if (output->part[0]) failed |= CDR_SYNC(output->fd) != 0;
  failed |= close(output->fd) != 0;
  if (!output->part[0]) return failed ? CDR_CANNOT_WRITE : CDR_OK;
  if (!failed && CDR_RENAME(output->part, output->path) == 0) return CDR_OK;
  remove(output->part);
  return CDR_CANNOT_WRITE;
}
#endif
