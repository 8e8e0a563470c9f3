// Takes a photo with the camera; where that is impossible or denied, a file is chosen instead.

export function setUpCamera(dialog, button, onPhoto) {
  if (!navigator.mediaDevices?.getUserMedia) {
    button.hidden = true;
    return;
  }
  const video = dialog.querySelector("video");
  const stop = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  button.addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      dialog.showModal();
    } catch {
      document.querySelector("#file").click();
    }
  });
  dialog.addEventListener("close", stop);
  dialog.querySelector("#close-camera").addEventListener("click", () => dialog.close());
  dialog.querySelector("#take-photo").addEventListener("click", () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close();
    canvas.toBlob((blob) => onPhoto(blob), "image/jpeg", 0.92);
  });
}
